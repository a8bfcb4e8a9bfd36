"""What keeps a page from being shown, as an exception that one place renders. Texts are English, to be translated."""

from __future__ import annotations

from proxy.errors import GatepostError


def N_(text: str) -> str:  # noqa: N802 - gettext's name for "to be translated where it is shown"
    return text


class Problem(GatepostError):
    """A page that says what went wrong, and one way on.

    title, text what is shown, before translation
    link        where the way on leads, and its text
    """

    def __init__(
        self, status: int, title: str, text: str, link: tuple[str, str] = ("/", N_("Back to the start"))
    ) -> None:
        super().__init__(f"{status}: {title}")
        self.status = status
        self.title = title
        self.text = text
        self.link = link


class SignInFirst(GatepostError):
    """Nobody is signed in with this browser."""


def nothing_here() -> Problem:
    """Also for what is somebody else's: which it is, is nobody's business."""
    return Problem(404, N_("Nothing is here"), N_("This page does not exist, or it is not yours."))


def forged() -> Problem:
    return Problem(
        403,
        N_("That did not come from this page"),
        N_("Nothing was changed. Open the page again and repeat what you did."),
    )


def too_often() -> Problem:
    return Problem(429, N_("That was a little fast"), N_("Please wait a few minutes, then try again."))
