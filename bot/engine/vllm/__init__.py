"""The engine on vLLM servers, and the only door to it: other packages import from here."""

from bot.engine.vllm.vllm_engine import VllmEngine

__all__ = ["VllmEngine"]
