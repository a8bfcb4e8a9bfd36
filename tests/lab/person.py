"""A person at the identity provider's pages without a browser: follows redirects and fills in forms by plain HTTP."""

from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx2

from tests.lab import Lab

MAX_STEPS = 15  # redirects and forms of one sign-in


class Form(HTMLParser):
    """The first form of a page: where it goes and what it would send."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self._is_first = True
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and not self.action:
            self.action = values["action"]
        elif tag == "input" and self._is_first and "name" in values:
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_first = False


def walk(http: httpx2.Client, lab: Lab, start: str, typed: dict[str, str]) -> httpx2.Response:
    """Follow redirects and fill in forms until there is nothing left to fill in, or we leave the provider."""
    response = http.get(start)
    for _ in range(MAX_STEPS):
        if response.is_redirect:
            target = urljoin(str(response.url), response.headers["location"])
            if not target.startswith(lab.idp.issuer):
                return response
            response = http.get(target)
            continue
        form = Form(response.text)
        if response.status_code != 200 or not form.action:
            return response
        fields = form.fields | {name: value for name, value in typed.items() if name in form.fields}
        response = http.post(urljoin(str(response.url), form.action), data=fields)
    raise AssertionError("the sign-in does not end")


def typed_by(lab: Lab, user: str) -> dict[str, str]:
    return {"login": user, "password": lab.password(user), "code": lab.totp_code(user)}
