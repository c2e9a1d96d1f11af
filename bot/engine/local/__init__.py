"""The engine on this machine. Import `LocalEngine`; the other files are its parts."""
