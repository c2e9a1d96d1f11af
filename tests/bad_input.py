"""List of all bad inputs that were thought of: each has a test that says what comes of it.

The tests stand with their subject, marked with `@pytest.mark.bad_input("NAME", …)`; of a
parametrized test, the parameters that are such an input are marked. `pytest -m bad_input` runs all.

Beside each name stands the evidence that a test really provokes it: a regular expression that
matches a line of what is gathered while it runs (`tests/evidence.py`). Where nothing can be seen
from outside, it is None, and the test must at least assert something.
"""

AREAS: dict[str, dict[str, str | None]] = {
    "talk": {
        "an empty message": r"^message: @ratchet_bot$",
        "a message of 4096 characters": r"^message: .{2048,}",
        "a sticker": r"^sticker: ",
        "a voice note": r"^voice: ",
        "an edited message": r"^edited message: ",
        "an answer to a message that was deleted": None,
        "right-to-left text": "^message: .*[\u0590-\u05ff\u202e]",
        "emoji": "^message: .*[\U0001f300-\U0001faff]",
        "control tokens of the chat template": r"^message: .*(<\|im_|\[INST\]|system:)",
        "a button of a turn in another chat": r"^TurnNotFound: ",
        "a button that is too old": r"^answerCallbackQuery 400: .*query is too old",
        "a button that cannot be understood": r"^answerCallbackQuery 200: .*no longer works",
        "a double tap": None,
        "a file of 25 MB": r"^sendMessage 200: .*up to 20 MB",
        "an encrypted PDF": r"^UnreadableDocument: .*locked with a password",
        "a file whose name lies about its type": r"^UnreadableDocument: .* (is|is not) an? ",
        "invalid UTF-8": None,
        "an empty file": r"^EmptyDocument: ",
        "a zip bomb in a docx": r"^(DocumentTooLarge: .*unpacks|UnreadableDocument: .*damaged)",
    },
    "learn": {
        "a training file with a bad line": r"^PreferencesUnreadable: ",
        "ratings of one kind": "^NothingToLearn: There are (0 👍 and|[0-9]+ 👍 and 0 👎)",
        "three ratings": r"^NothingToLearn: There are [23] examples",
        "500 identical ratings of one person": None,
        "replies longer than the context": r"^log: .*longer than \d+ tokens",
        "empty replies": None,
        "a base model that changed since the last run": r"^AdapterNotFit: .* was trained on ",
        "two /train at once": None,
        "a run that is killed in the middle": None,
        "a full disk": None,
        "an adapter edited by hand": r"^AdapterUnusable: .* changed after it was made",
        "/promote of a rejected version": r"^AdapterNotFit: .* was rejected|^message: /promote ",
        "/rollback with nothing behind": r"^NothingToRollBack: |^message: /rollback$",
    },
    "serve": {
        "an adapter with a missing file": r"^AdapterDamaged: .* lacks adapter_",
        "an adapter with a truncated file": r"^AdapterUnusable: .*invalid header length",
        "an adapter with a foreign file": r"^AdapterUnusable: .*header too large",
        "a pickle in place of safetensors": r"^AdapterRefused: .* cannot be read",
        "an adapter of another base model": r"^AdapterRefused: .* was trained on another",
        "an adapter that is no numbers": r"^AdapterUnusable: .*not finite",
        "a rank beyond the limit": r"^AdapterUnusable: .*its rank is \d+, the limit is",
        "a vLLM server that is down": r"^ServerLost: ConnectError",
        "a vLLM server that is slow": r"^ServerLost: ReadTimeout",
        "a vLLM server that answers 500": r"^ServerLost: .* 500",
        "a vLLM server that dies mid-stream": r"^ServerLost: RemoteProtocolError",
        "a vLLM server that forgets its adapters": r"^ServerLost: .* 404: .*does not exist",
        "a client that never reads its stream": None,
        "a prompt of exactly the context length": r"^PromptTooLong: the prompt has 256 tokens",
    },
    "trust": {
        "an update that comes twice": None,
        "a setting that is none": r"^SettingsError: ",
        "a forged webhook call": None,
        "a made-up invitation": r"^message: /start",
        "a flood of messages": r"^QuotaReached: ",
        "a flood of corrections": None,
        "a damaged backup": r"^BackupUnusable: ",
        "a damaged index": r"^IndexUnavailable: ",
        "a file that takes all memory or time": r"^UnreadableDocument: .*(memory|too long to read)",
    },
}

EVIDENCE = {name: pattern for names in AREAS.values() for name, pattern in names.items()}
