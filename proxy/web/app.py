"""Which address is which page, and how what goes wrong is shown."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.errors import OperatorError, StoreUnavailable
from proxy.logs import Line
from proxy.web.autoconfig import Autoconfig
from proxy.web.guard import Guard
from proxy.web.house import House, Visit
from proxy.web.mailboxes import Mailboxes
from proxy.web.making import Making
from proxy.web.managing import Managing
from proxy.web.problems import N_, Problem, SignInFirst, forged, nothing_here, too_often
from proxy.web.signing_in import SigningIn
from proxy.web.words import chosen

logger = logging.getLogger("gatepost.web")


def application(house: House) -> ASGIApp:
    """The whole page, guard included."""
    handlers = {
        Problem: _problem(house),
        SignInFirst: _sign_in_first,
        StoreUnavailable: _store_down(house),
        OperatorError: _refused(house),
        HTTPException: _http(house),
        Exception: _crashed(house),
    }
    inner = Starlette(routes=_routes(house), exception_handlers=handlers)
    return Guard(inner, house.web, house.rates, _plain(house))


def _routes(house: House) -> list[BaseRoute]:
    signing_in, mailboxes, making, managing = SigningIn(house), Mailboxes(house), Making(house), Managing(house)
    autoconfig = Autoconfig(house)
    get, post = ["GET"], ["POST"]
    at = "/mailbox/{account_id:int}"
    admin = "/admin/mailbox/{account_id:int}"
    return [
        Route("/", mailboxes.start, methods=get),
        Route("/sign-in", signing_in.begin, methods=get),
        Route("/signed-in", signing_in.end, methods=get),
        Route("/sign-in-failed", signing_in.failed, methods=get),
        Route("/sign-out", signing_in.sign_out, methods=post),
        Route("/sign-out-everywhere", signing_in.sign_out_everywhere, methods=post),
        Route(at, mailboxes.show, methods=get),
        Route(f"{at}/sign-in-again", signing_in.begin_again, methods=get),
        Route(f"{at}/connect", signing_in.begin_connect, methods=get),
        Route(f"{at}/new", making.form, methods=get),
        Route(f"{at}/new", making.make, methods=post),
        Route(f"{at}/revoke/{{public_id}}", mailboxes.ask_revoke, methods=get),
        Route(f"{at}/revoke/{{public_id}}", mailboxes.revoke, methods=post),
        Route(f"{at}/revoke-all", mailboxes.ask_revoke_all, methods=get),
        Route(f"{at}/revoke-all", mailboxes.revoke_all, methods=post),
        Route("/admin", managing.start, methods=get),
        Route("/admin/sessions", managing.sessions, methods=get),
        Route("/admin/sessions/{session_id}/end", managing.kick, methods=post),
        Route("/admin/audit", managing.audit, methods=get),
        Route(admin, managing.mailbox, methods=get),
        Route(f"{admin}/revoke/{{public_id}}", managing.ask_revoke, methods=get),
        Route(f"{admin}/revoke/{{public_id}}", managing.revoke, methods=post),
        Route("/.well-known/autoconfig/mail/config-v1.1.xml", autoconfig.thunderbird, methods=get),
        Route("/mail/config-v1.1.xml", autoconfig.thunderbird, methods=get),
        Route("/autodiscover/autodiscover.xml", autoconfig.outlook, methods=[*get, *post]),
        Route("/Autodiscover/Autodiscover.xml", autoconfig.outlook, methods=[*get, *post]),
        Route("/apple.mobileconfig", autoconfig.apple, methods=get),
        Mount("/static", StaticFiles(directory=Path(str(files("proxy.web"))) / "static")),
    ]


async def _sign_in_first(request: Request, error: SignInFirst) -> Response:
    del request, error
    return RedirectResponse("/", 303)


def _problem(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - Starlette's own type is as wide
    async def show(request: Request, problem: Problem) -> Response:
        try:
            visit = await house.visit(request)
        except StoreUnavailable:
            visit = _nobody(request)
        return house.show(visit, "problem.html", problem.status, problem=problem)

    return show


def _store_down(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see _problem
    async def show(request: Request, error: StoreUnavailable) -> Response:
        logger.warning("%s", Line("web_store_down", detail=str(error)))
        problem = Problem(503, N_("Not right now"), N_("Gatepost cannot reach its store. Please try again shortly."))
        return house.show(_nobody(request), "problem.html", 503, problem=problem)

    return show


def _refused(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see _problem
    async def show(request: Request, error: OperatorError) -> Response:
        logger.warning("%s", Line("web_refused", detail=str(error)))
        return await _problem(house)(request, _odd())  # type: ignore[no-any-return]

    return show


def _http(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see _problem
    async def show(request: Request, error: HTTPException) -> Response:
        problem = nothing_here()
        problem.status = error.status_code
        return await _problem(house)(request, problem)  # type: ignore[no-any-return]

    return show


def _crashed(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see _problem
    async def show(request: Request, error: Exception) -> Response:
        del error  # Starlette raises it again, and the guard logs it
        return house.show(_nobody(request), "problem.html", 500, problem=_odd())

    return show


def _plain(house: House):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see _problem
    """Answers of the guard: pages too, without looking at who is there."""

    async def answer(scope: Scope, receive: Receive, send: Send, status: int) -> None:
        request = Request(scope, receive)
        problems = {403: forged(), 429: too_often(), 500: _odd()}
        problem = problems.get(status)
        if problem is None:
            words = {405: "method not allowed", 421: "this is another host's page"}
            await PlainTextResponse(f"{words.get(status, 'refused')}\n", status)(scope, receive, send)
            return
        problem.status = status
        await house.show(_nobody(request), "problem.html", status, problem=problem)(scope, receive, send)

    return answer


def _nobody(request: Request) -> Visit:
    return Visit(request, request.state.address, chosen(request.headers.get("accept-language", "")))


def _odd() -> Problem:
    return Problem(
        500, N_("That did not work"), N_("Gatepost could not do this. Your administrator finds why in its log.")
    )
