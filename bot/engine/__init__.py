"""The engine generates text and holds adapters. It knows messages and tokens, not the product.

Importing this package is cheap; torch and transformers come with `bot.engine.local`.
"""
