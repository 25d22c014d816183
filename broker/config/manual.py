"""The commented configuration file that is the manual of every setting."""

from pathlib import Path

_INSTALLED = Path(__file__).with_name("signalbox.toml")
_CHECKOUT = Path(__file__).parents[2] / "conf" / "signalbox.toml"


def manual() -> str:
    """Return the text of conf/signalbox.toml: from beside this module when installed, else from the checkout."""
    return (_INSTALLED if _INSTALLED.exists() else _CHECKOUT).read_text(encoding="utf-8")
