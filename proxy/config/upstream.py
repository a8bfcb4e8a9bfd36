"""Reads the tables [upstream.NAME]: the operator's keys over those of a preset, and every rule about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from proxy.config.address import BadAddress, endpoint, issuer, provider_url, redirect_url
from proxy.config.model import (
    ANY_LOOPBACK_PORT,
    GRANTS,
    Endpoint,
    Grant,
    MailboxLimits,
    Mechanism,
    OAuth2Config,
    Protocol,
    UpstreamConfig,
)
from proxy.config.presets import CLOUDS, Preset, preset, preset_names
from proxy.config.table import Table, either

MAX_SESSIONS = 10_000  # for one mailbox; no provider bears a hundredth of it

_KEYS = "preset cloud imap smtp tls_ca auth limits mechanism imap_extensions smtp_extensions oauth2".split()
_OAUTH2_KEYS = (
    "client_id client_secret client_certificate client_key service_account tenant authorize_url token_url device_url "
    "issuer redirect_url scopes grant authorize_parameters".split()
)
_AUTHS: tuple[Literal["oauth2", "password"], ...] = ("oauth2", "password")
_MECHANISMS: tuple[Mechanism, ...] = ("XOAUTH2", "OAUTHBEARER")
# What Gatepost itself puts into an authorization request: RFC 6749 4.1.1, RFC 7636 4.3, OpenID Connect Core 3.1.2.1.
_OUR_PARAMETERS = frozenset(
    "response_type response_mode client_id redirect_uri scope state nonce code_challenge code_challenge_method".split()
)
_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")  # an id, a domain, or a word like "consumers"
# RFC 9051 9, capability; RFC 5321 4.1.1.1, ehlo-line: these are told to clients.
_EXTENSION: dict[Protocol, re.Pattern[str]] = {
    "imap": re.compile(r"[A-Za-z0-9][A-Za-z0-9+./:=_-]{0,63}"),
    "smtp": re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}(?: [!-~]{1,64}){0,8}"),
}


def upstreams_of(top: Table) -> dict[str, UpstreamConfig]:
    """All upstreams of the file, by name, in its order."""
    tables = top.named_tables("upstream", _KEYS)
    if not tables:
        raise top.error("upstream", "is missing", "add a table [upstream.NAME] for your mail server")
    return {name: _upstream(name, table) for name, table in tables.items()}


def _upstream(name: str, own: Table) -> UpstreamConfig:
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise own.error("", "is no name for an upstream", "use letters, digits, - and _")
    heading = f"[upstream.{name}.oauth2]"
    known = _preset(own)
    table = own
    if known is not None:
        grant = _grant(own.table("oauth2", _OAUTH2_KEYS, heading), known)
        table = own.over(known.defaults(_cloud(own, known), grant))
    imap, smtp = table.parsed("imap", _endpoint("imap")), table.parsed("smtp", _endpoint("smtp"))
    if imap is None and smtp is None:
        raise own.error("imap", "is missing, and so is smtp", 'set one, like imap = "imaps://mail.example.com:993"')
    auth = _auth(own, name)
    return UpstreamConfig(
        name=name,
        imap=imap,
        smtp=smtp,
        tls_ca=table.path("tls_ca"),
        auth=auth,
        oauth2=_oauth2(table.table("oauth2", _OAUTH2_KEYS, heading), known) if auth == "oauth2" else None,
        preset=known.name if known else "",
        limits=_limits(table.table("limits", ("imap", "smtp"), f"[upstream.{name}] limits")),
        mechanism=table.choice("mechanism", _MECHANISMS, "") if auth == "oauth2" and "mechanism" in table else "",
        imap_extensions=_extensions(table, "imap"),
        smtp_extensions=_extensions(table, "smtp"),
    )


def _auth(own: Table, name: str) -> Literal["oauth2", "password"]:
    """How Gatepost logs in there; a preset's [oauth2] is no answer, as the client is the operator's."""
    auth = own.choice("auth", _AUTHS, "oauth2")
    if auth == "oauth2" and "oauth2" not in own:
        raise own.error("oauth2", "is missing", f'add [upstream.{name}.oauth2], or say auth = "password"')
    for key in ("oauth2", "mechanism"):
        if auth == "password" and key in own:
            raise own.error(key, 'is not used with auth = "password"', "remove one of the two")
    return auth


def _preset(own: Table) -> Preset | None:
    if "preset" in own:
        return preset(own.choice("preset", preset_names(), None))
    if "cloud" in own:
        raise own.error("cloud", "is nothing without a preset", "remove it, and name the servers of that cloud")
    return None


def _cloud(own: Table, known: Preset) -> str:
    cloud = own.choice("cloud", CLOUDS, "global")
    if cloud != "global" and cloud not in known.clouds:
        raise own.error("cloud", f'preset "{known.name}" has no "{cloud}"', "remove it")
    return cloud


def _endpoint(protocol: Protocol) -> Callable[[str], Endpoint]:
    return lambda text: endpoint(text, protocol)


def _limits(table: Table) -> MailboxLimits:
    return MailboxLimits(table.number("imap", 0, 0, MAX_SESSIONS), table.number("smtp", 0, 0, MAX_SESSIONS))


def _extensions(table: Table, protocol: Protocol) -> tuple[str, ...]:
    key = f"{protocol}_extensions"
    extensions = table.texts(key) or ()
    for extension in extensions:
        if not _EXTENSION[protocol].fullmatch(extension):
            example = '["IDLE", "UIDPLUS"]' if protocol == "imap" else '["PIPELINING", "SIZE 35882577"]'
            raise table.error(key, "holds something that is no extension's name", f"write them like {example}")
    return extensions


def _grant(table: Table, known: Preset | None) -> Grant:
    grant = table.choice("grant", GRANTS, "user")
    if known is not None and grant not in known.grants:
        raise table.error("grant", f'preset "{known.name}" has no "{grant}"', f"use {either(tuple(known.grants))}")
    return grant


def _oauth2(table: Table, known: Preset | None) -> OAuth2Config:
    grant = _grant(table, known)
    _check_client(table, grant)
    tenant = _tenant(table)
    if known is not None and known.is_shared_tenant(grant, tenant):
        raise table.error("tenant", f'"{tenant}" is no single tenant', f'grant = "{grant}" needs your tenant\'s id')
    urls = {key: _url(table, key, tenant) for key in ("authorize_url", "token_url", "device_url", "issuer")}
    if urls["token_url"] is None and urls["issuer"] is None:
        raise table.missing("token_url", '"https://..."')
    return OAuth2Config(
        client_id=table.text("client_id") or "",
        token_url=urls["token_url"] or "",
        client_secret=table.secret("client_secret"),
        scopes=table.texts("scopes") or (),
        grant=grant,
        tenant=tenant,
        authorize_url=urls["authorize_url"],
        device_url=urls["device_url"],
        issuer=urls["issuer"],
        redirect_url=table.parsed("redirect_url", redirect_url) or ANY_LOOPBACK_PORT,
        client_certificate=table.path("client_certificate"),
        client_key=table.secret("client_key"),
        service_account=table.secret("service_account"),
        authorize_parameters=_authorize_parameters(table),
    )


def _check_client(table: Table, grant: Grant) -> None:
    """Each grant has its own way to say who the client is; half of one, or two at once, is a mistake."""
    if grant == "service_account":
        if "service_account" not in table:
            raise table.missing("service_account", '"file:service-account.json"')
        for key in ("client_id", "client_secret", "client_certificate", "client_key"):
            if key in table:
                raise table.error(key, f'is not used with grant = "{grant}"', "remove it: the key file says it all")
        return
    if "service_account" in table:
        raise table.error("service_account", f'is not used with grant = "{grant}"', 'set grant = "service_account"')
    if "client_id" not in table:
        raise table.missing("client_id", '"..."')
    if ("client_certificate" in table) != ("client_key" in table):
        keys = ("client_certificate", "client_key")
        missing, there = keys if "client_key" in table else keys[::-1]
        raise table.error(missing, f"is missing beside {there}", "name both PEM files")
    if "client_secret" in table and "client_key" in table:
        raise table.error("client_secret", "is not used beside client_key", "remove one of the two")
    if grant == "client_credentials" and "client_secret" not in table and "client_key" not in table:
        remedy = "or client_certificate and client_key: this grant is for clients that can prove who they are"
        raise table.error("client_secret", "is missing", f"add it, {remedy}")


def _tenant(table: Table) -> str:
    tenant = table.text("tenant")
    if tenant is None:
        return ""
    if not _TENANT.fullmatch(tenant):
        raise table.error("tenant", "is no tenant", "write its id, or its domain")
    if not any("{tenant}" in (table.text(key) or "") for key in ("authorize_url", "token_url", "device_url", "issuer")):
        raise table.error("tenant", "is in none of the addresses", "remove it, or write {tenant} where it belongs")
    return tenant


def _url(table: Table, key: str, tenant: str) -> str | None:
    def parse(text: str) -> str:
        if "{tenant}" in text and not tenant:
            raise BadAddress("holds {tenant}, and there is none", "set tenant beside it")
        filled = text.replace("{tenant}", tenant)
        if "{" in filled or "}" in filled:
            raise BadAddress("holds a placeholder that is not known", "use {tenant}, or write the address out")
        return issuer(filled) if key == "issuer" else provider_url(filled)

    return table.parsed(key, parse)


def _authorize_parameters(table: Table) -> tuple[tuple[str, str], ...]:
    parameters = table.pairs("authorize_parameters")
    for name, _ in parameters:
        if name in _OUR_PARAMETERS:
            raise table.error("authorize_parameters", f"{name} is Gatepost's own", "remove it there")
    return parameters
