"""Reads [web]: where the page is, who signs in there and by what, and every rule about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config.address import is_loopback, listen_address, web_page
from proxy.config.model import Network, OAuth2Config, TlsConfig, UpstreamConfig, WebConfig
from proxy.config.table import Table, shown

_KEYS = (
    "address public_url certificate key trusted_proxies mail_host upstream require_mfa amr acr "
    "mfa_enforced_by_provider fresh_s session_s domains group group_claim tenants mailbox_claim create_accounts "
    "admin_group"
).split()
_TENANT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
# Microsoft, "Microsoft Entra authentication & national clouds", and the hosts of its tokens of version 1.
_ENTRA_HOSTS = (
    "login.microsoftonline.com login.microsoftonline.us login.partner.microsoftonline.cn login.microsoft.com "
    "login.windows.net login.chinacloudapi.cn sts.windows.net sts.chinacloudapi.cn"
).split()
_DAY_S = 86_400


def web_of(top: Table, upstreams: Mapping[str, UpstreamConfig], tls: TlsConfig) -> WebConfig | None:
    """The page's configuration, None without [web]."""
    if "web" not in top:
        return None
    table = top.table("web", _KEYS)
    default = WebConfig(host="", port=0, public_url="", upstream="")
    address = table.parsed("address", listen_address)
    if address is None:
        raise table.missing("address", '"0.0.0.0:8443"')
    public_url = table.parsed("public_url", web_page)
    if public_url is None:
        raise table.missing("public_url", '"https://mail.example.com"')
    upstream, oauth2 = _upstream(table, upstreams)
    proxies = table.networks("trusted_proxies")
    certificate, key = _certificate(table, public_url, proxies, tls, address[0])
    web = WebConfig(
        host=address[0],
        port=address[1],
        public_url=public_url,
        upstream=upstream,
        certificate=certificate,
        key=key,
        trusted_proxies=proxies,
        mail_host=table.text("mail_host") or urlsplit(public_url).hostname or "",
        require_mfa=table.flag("require_mfa", default=default.require_mfa),
        amr=_words(table, "amr", default.amr),
        acr=_words(table, "acr", default.acr),
        mfa_enforced_by_provider=table.flag("mfa_enforced_by_provider", default=default.mfa_enforced_by_provider),
        fresh_s=table.number("fresh_s", default.fresh_s, 60, _DAY_S),
        session_s=table.number("session_s", default.session_s, 300, 7 * _DAY_S),
        domains=_domains(table),
        group=table.text("group") or "",
        group_claim=table.text("group_claim") or default.group_claim,
        tenants=_tenants(table),
        mailbox_claim=table.text("mailbox_claim") or "",
        is_entra=is_entra(oauth2),
        create_accounts=table.flag("create_accounts", default=default.create_accounts),
        admin_group=table.text("admin_group") or "",
    )
    _check_who(table, web)
    return web


def is_entra(oauth2: OAuth2Config) -> bool:
    """Whether Microsoft Entra signs people in: its address claims are not vouched for, its tenants are many."""
    host = urlsplit(oauth2.issuer or "").hostname or ""
    return host in _ENTRA_HOSTS or host.endswith((".ciamlogin.com", ".b2clogin.com"))


def _check_who(table: Table, web: WebConfig) -> None:
    if web.require_mfa and not (web.amr or web.acr or web.mfa_enforced_by_provider):
        raise table.error("require_mfa", "nothing counts as MFA", "name values in amr or acr")
    if web.is_entra and not web.tenants:
        raise table.missing("tenants", '["11111111-2222-3333-4444-555555555555"], the ids whose people may sign in')
    if web.is_entra and web.mailbox_claim == "email":
        raise table.error(
            "mailbox_claim", "Entra's email may be set to anything", 'leave it out, or name "preferred_username"'
        )
    if web.create_accounts and not (web.domains or web.group):
        raise table.error("create_accounts", "needs to know for whom", "set domains or group beside it")


def _upstream(table: Table, upstreams: Mapping[str, UpstreamConfig]) -> tuple[str, OAuth2Config]:
    fitting = {
        name: upstream.oauth2
        for name, upstream in upstreams.items()
        if upstream.oauth2 is not None and upstream.oauth2.grant == "user" and upstream.oauth2.issuer is not None
    }
    name = table.text("upstream")
    if name is None:
        if len(fitting) != 1:
            found = f"{', '.join(fitting)} could be meant" if fitting else "no upstream has oauth2 and an issuer"
            raise table.error("upstream", f"is missing, and {found}", "name the upstream whose people sign in")
        return next(iter(fitting.items()))
    if name not in upstreams:
        raise table.error("upstream", f"there is no [upstream.{shown(name)}]", f"use one of: {', '.join(fitting)}")
    oauth2 = fitting.get(name)
    if oauth2 is None:
        raise table.error(
            "upstream", f"nobody signs in at [upstream.{name}]", 'it needs oauth2 with an issuer and grant = "user"'
        )
    return name, oauth2


def _certificate(
    table: Table, public_url: str, proxies: tuple[Network, ...], tls: TlsConfig, host: str
) -> tuple[Path | None, Path | None]:
    """The pair that the page shows itself; (None, None): it speaks HTTP, to a proxy or on loopback."""
    certificate, key = table.path("certificate"), table.path("key")
    if (certificate is None) != (key is None):
        missing, there = ("certificate", "key") if certificate is None else ("key", "certificate")
        raise table.error(missing, f"is missing beside {there}", "name both PEM files")
    if certificate is not None and public_url.startswith("http://"):
        raise table.error("certificate", "is not used with an http:// public_url", "write https:// there")
    if certificate is not None or proxies:
        return certificate, key
    if public_url.startswith("http://"):
        if not is_loopback(host):
            raise table.error("address", "would send what is signed in with in clear text", "listen on 127.0.0.1")
        return None, None
    if tls.certificate is None:
        raise table.error(
            "public_url", "https:// needs a certificate", "set certificate and key here or in [tls], or trusted_proxies"
        )
    return tls.certificate, tls.key


def _words(table: Table, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    words = table.texts(key)
    return default if words is None else words


def _domains(table: Table) -> tuple[str, ...]:
    domains = tuple(domain.lower() for domain in table.texts("domains") or ())
    for domain in domains:
        if not _DOMAIN.fullmatch(domain):
            raise table.error("domains", f'"{shown(domain)}" is no domain', 'write them like ["example.com"]')
    return domains


def _tenants(table: Table) -> tuple[str, ...]:
    tenants = tuple(tenant.lower() for tenant in table.texts("tenants") or ())
    for tenant in tenants:
        if not _TENANT_ID.fullmatch(tenant):
            raise table.error(
                "tenants", f'"{shown(tenant)}" is no tenant\'s id', "tokens name tenants by id, not domain"
            )
    return tenants
