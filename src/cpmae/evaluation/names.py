"""What a user asks for by name: methods, attackers and segmenters."""

from collections.abc import Sequence

from cpmae.errors import MethodError


def known(kind: str, names: Sequence[str] | None, among: Sequence[str], otherwise: str = "") -> list[str]:
    """Names as they are spelt, each once and in the order asked for; all for None.

    Args:
        kind: "method", say, for the message.
        names: in any case, with or without their spaces and hyphens.
        among: those that there are.
        otherwise: what else may be done, for the message.

    Raises:
        MethodError: there is none of that name.
    """
    spelt = {_bare(name): name for name in among}
    for name in names or ():
        if _bare(name) not in spelt:
            raise MethodError(f"there is no {kind} {name!r}, choose among {', '.join(among)}{otherwise}")
    return list(among) if names is None else list(dict.fromkeys(spelt[_bare(name)] for name in names))


def _bare(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
