"""Settings for mail programs that ask for them: Thunderbird, Outlook's IMAP accounts, Apple's profiles.

The same answer for every address, so that it tells nobody which addresses there are; the address is not even read. No
password is in any of them.
"""

from __future__ import annotations

import plistlib
import uuid
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response

from proxy.config import PROTOCOLS, Tls, WebConfig
from proxy.vault.cms import signed
from proxy.web.forms import read_body
from proxy.web.house import House
from proxy.web.settings import Server, servers

_SOCKETS = {Tls.IMPLICIT: "SSL", Tls.STARTTLS: "STARTTLS", Tls.NONE: "plain"}
_ENCRYPTION = {Tls.IMPLICIT: "SSL", Tls.STARTTLS: "TLS", Tls.NONE: "None"}
_RESPONSE = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
_OUTLOOK = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"


class Autoconfig:
    """Handlers for mail programs. The answers are made once."""

    def __init__(self, house: House) -> None:
        web = house.web
        found = servers(house.config, web, web.upstream, PROTOCOLS)
        self._thunderbird = thunderbird(web, found)
        self._outlook = outlook(found)
        self._apple = apple(web, found)

    async def thunderbird(self, request: Request) -> Response:
        del request
        return Response(self._thunderbird, media_type="text/xml")

    async def outlook(self, request: Request) -> Response:
        await read_body(request)  # bounded, and not looked at
        return Response(self._outlook, media_type="text/xml")

    async def apple(self, request: Request) -> Response:
        del request
        headers = {"content-disposition": 'attachment; filename="mail.mobileconfig"'}
        return Response(self._apple, media_type="application/x-apple-aspen-config", headers=headers)


def thunderbird(web: WebConfig, found: list[Server]) -> bytes:
    """Source: Mozilla's autoconfiguration file format, version 1.1."""
    host = escape(web.mail_host)
    blocks = []
    for server in found:
        kind = "incomingServer" if server.protocol == "imap" else "outgoingServer"
        blocks.append(
            f'    <{kind} type="{server.protocol}">\n'
            f"      <hostname>{escape(server.host)}</hostname>\n"
            f"      <port>{server.port}</port>\n"
            f"      <socketType>{_SOCKETS[server.tls]}</socketType>\n"
            "      <authentication>password-cleartext</authentication>\n"
            "      <username>%EMAILADDRESS%</username>\n"
            f"    </{kind}>\n"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<clientConfig version="1.1">\n'
        f'  <emailProvider id="{host}">\n'
        "    <domain>%EMAILDOMAIN%</domain>\n"
        f"    <displayName>{host}</displayName>\n"
        f"{''.join(blocks)}"
        f'    <documentation url="{escape(web.public_url)}/"><descr lang="en">App passwords</descr></documentation>\n'
        "  </emailProvider>\n"
        "</clientConfig>\n"
    ).encode()


def outlook(found: list[Server]) -> bytes:
    """Plain old XML. Without LoginName Outlook takes the address. Source: MS-OXDSCLI 2.2.4."""
    blocks = "".join(
        f"      <Protocol>\n        <Type>{server.protocol.upper()}</Type>\n"
        f"        <Server>{escape(server.host)}</Server>\n        <Port>{server.port}</Port>\n"
        "        <DomainRequired>off</DomainRequired>\n        <SPA>off</SPA>\n"
        f"        <SSL>{'off' if server.tls is Tls.NONE else 'on'}</SSL>\n"
        f"        <Encryption>{_ENCRYPTION[server.tls]}</Encryption>\n"
        "        <AuthRequired>on</AuthRequired>\n      </Protocol>\n"
        for server in found
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<Autodiscover xmlns="{_RESPONSE}">\n  <Response xmlns="{_OUTLOOK}">\n    <Account>\n'
        "      <AccountType>email</AccountType>\n      <Action>settings</Action>\n"
        f"{blocks}    </Account>\n  </Response>\n</Autodiscover>\n"
    ).encode()


def apple(web: WebConfig, found: list[Server]) -> bytes:
    """A profile; the device asks for address and password itself. Source: Apple, com.apple.mail.managed."""
    mail: dict[str, object] = {
        "EmailAccountType": "EmailTypeIMAP",
        "EmailAccountDescription": web.mail_host,
        "PayloadType": "com.apple.mail.managed",
        "PayloadIdentifier": f"{web.mail_host}.gatepost.mail",
        "PayloadUUID": _uuid(web, "mail"),
        "PayloadVersion": 1,
        "OutgoingPasswordSameAsIncomingPassword": True,
    }
    for server in found:
        side = "Incoming" if server.protocol == "imap" else "Outgoing"
        mail[f"{side}MailServerHostName"] = server.host
        mail[f"{side}MailServerPortNumber"] = server.port
        mail[f"{side}MailServerUseSSL"] = server.tls is not Tls.NONE
        mail[f"{side}MailServerAuthentication"] = "EmailAuthPassword"
    profile = plistlib.dumps(
        {
            "PayloadContent": [mail],
            "PayloadDisplayName": f"Mail: {web.mail_host}",
            "PayloadIdentifier": f"{web.mail_host}.gatepost",
            "PayloadRemovalDisallowed": False,
            "PayloadType": "Configuration",
            "PayloadUUID": _uuid(web, "profile"),
            "PayloadVersion": 1,
        }
    )
    if web.certificate is None or web.key is None:
        return profile
    return signed(profile, web.certificate, web.key)


def _uuid(web: WebConfig, part: str) -> str:
    """The same at every request, so that a profile replaces its former version."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{web.public_url}/{part}")).upper()
