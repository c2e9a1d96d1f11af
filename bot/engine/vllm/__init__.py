"""The engine on vLLM servers. Import `VllmEngine`; the other files are its parts."""
