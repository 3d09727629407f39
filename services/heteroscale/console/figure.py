"""A figure of matplotlib, which is an extra: who asks for a picture without it is told what to install."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any, Final

from heteroscale.contracts.errors import Rejected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS: Final = 130


def figure(size: tuple[float, float], option: str) -> Figure:
    """An empty one, inches wide and high, without pyplot, so that no display and no global state is asked for.

    Raises Rejected without matplotlib: `option` is what asked for it.
    """
    try:
        module: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise Rejected("no_matplotlib", f"a picture needs matplotlib; install heteroscale[plot], or leave {option} out", option) from error
    made: Figure = module.Figure(figsize=size, layout="constrained")
    return made


def png(drawn: Figure) -> bytes:
    """A figure as a PNG file."""
    out = io.BytesIO()
    drawn.savefig(out, format="png", dpi=DOTS)
    return out.getvalue()
