"""The text of `.env.example`, made from the settings.

Write it with `python -m store.env_example > .env.example`.
"""

from store.settings import Settings, variable_of

TOP = """\
# Every setting, with its default. Copy this file to .env and uncomment what you change.
# It is made from the code: python -m store.env_example > .env.example
"""


def env_example() -> str:
    """Return the file's text: every setting with its description and default, under headings."""
    parts = [TOP]
    for _, each in Settings().slices:
        heading = (type(each).__doc__ or "").partition("\n")[0].rstrip(".")
        parts.append(f"\n## {heading}\n")
        for field, about in type(each).model_fields.items():
            variable = variable_of(f"{each.prefix}{field}")
            parts.append(f"\n# {about.description}\n# {variable}={_written(about.default)}\n")
    return "".join(parts)


def _written(value: object) -> str:
    """Return a default as it is written in a `.env` file."""
    if value is None or value in ((), frozenset()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f'"{text}"' if " " in text else text


if __name__ == "__main__":
    print(env_example(), end="")  # noqa: T201  # the file, to standard output
