"""Addresses as the configuration writes them: where to listen, networks, mail servers, endpoints on the web.

Pure functions; each raises BadAddress with what is wrong and the remedy, and the reader adds file and key.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from proxy.config.model import Endpoint, Network, Protocol, Tls

MAX_HOST = 253  # RFC 1035 2.3.4, written with dots

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 2.5.5.2

# RFC 8314 section 3: implicit TLS on ports of its own; the others start clear and have STARTTLS.
_SERVERS: dict[Protocol, dict[str, tuple[int, Tls]]] = {
    "imap": {"imaps": (993, Tls.IMPLICIT), "imap": (143, Tls.STARTTLS)},
    "smtp": {"smtps": (465, Tls.IMPLICIT), "smtp": (587, Tls.STARTTLS)},
}
_EXAMPLES: dict[Protocol, str] = {
    "imap": '"imaps://HOST:993", or "imap://HOST:143"',
    "smtp": '"smtps://HOST:465", or "smtp://HOST:587"',
}


class BadAddress(Exception):
    """An address that can't be used. The texts never repeat a user name or password that stood in it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def listen_address(text: str) -> tuple[str, int]:
    """Read "192.0.2.1:993" or "[2001:db8::1]:993"; port 0 asks the system for a free one.

    returns the IP address in its canonical form, and the port
    """
    host, colon, port = text.rpartition(":")
    remedy = 'write an IP address and a port, like "0.0.0.0:993" or "[::]:993"'
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise BadAddress("has no port", remedy)
    if int(port) > 65_535:
        raise BadAddress(f"port {int(port)} does not exist", "use a port from 1 to 65535, or 0 for any free one")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise BadAddress("is no IP address with a port", remedy) from None
    if is_bracketed != (address.version == 6):
        raise BadAddress("is no IP address with a port", remedy)
    return str(address), int(port)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can be meant: a loopback IP address, or "localhost" (RFC 6761 6.3)."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def network(text: str) -> Network:
    """Read a network, CIDR; a bare address is a network of one. IPv4-mapped IPv6 becomes IPv4, as clients do."""
    try:
        if "%" in text:
            raise ValueError("an interface is no part of a network")
        loose = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise BadAddress("is no network", "write it like 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32") from None
    try:
        found = ipaddress.ip_network(text.strip())
    except ValueError:  # a typo in either half, and we can't know in which
        raise BadAddress("has bits behind its prefix", f"did you mean {loose}?") from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        mapped = int(found.network_address) - int(_MAPPED.network_address)
        return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED.prefixlen))
    return found


def endpoint(text: str, protocol: Protocol) -> Endpoint:
    """Read a mail server's URL, for example "imaps://host:993" or "smtp://host" (STARTTLS, default port)."""
    schemes = _SERVERS[protocol]
    remedy = f"write {_EXAMPLES[protocol]} for STARTTLS"
    parts = _split(text, remedy)
    if parts.scheme not in schemes:
        raise BadAddress(f"is no {protocol} server", remedy)
    if parts.path not in ("", "/") or parts.query:
        raise BadAddress("has more than a host and a port", remedy)
    port, tls = schemes[parts.scheme]
    return Endpoint(_host(parts, remedy), _port(parts, port, remedy), tls)


def provider_url(text: str) -> str:
    """Check an endpoint of a provider: https://, or http:// on loopback; no fragment (RFC 6749 3.2), no user name."""
    return _web_address(text, "write the provider's endpoint, https://...", "would send tokens in clear text")


def issuer(text: str) -> str:
    """Check an OpenID issuer: as provider_url, and no query (OpenID Connect Discovery 1.0, 3)."""
    url = _web_address(text, "write the provider's issuer, https://...", "would trust what anybody may change")
    if "?" in url:
        raise BadAddress("has a query", "remove the ? and what follows")
    return url


def webhook(text: str) -> str:
    """Check where alerts are posted: https://, or http:// on loopback."""
    return _web_address(text, "write an address like https://...", "would send alerts in clear text")


def web_page(text: str) -> str:
    """Check where the web page is: https://HOST, or http:// on loopback; nothing behind the host. Without a slash."""
    url = _web_address(text, "write an address like https://mail.example.com", "would send sign-ins in clear text")
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query:
        raise BadAddress("has more than a host and a port", "give the page a host name of its own")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def redirect_url(text: str) -> str:
    """Check where a browser comes back to (RFC 8252 7.3): http:// on loopback, port 0 for any free one, or https://."""
    remedy = 'write "http://127.0.0.1:0/", or the https:// address that is registered with the provider'
    parts = _split(text, remedy)
    host = _host(parts, remedy)
    if parts.scheme == "http" and is_loopback(host) and _port_or_none(parts, remedy) == 0:
        return text
    return _web_address(text, remedy, "would send the code in clear text")


def _web_address(text: str, remedy: str, danger: str) -> str:
    parts = _split(text, remedy)
    if parts.scheme not in ("https", "http"):
        raise BadAddress("is no https:// address", remedy)
    host = _host(parts, remedy)
    _port(parts, 443, remedy)
    if parts.scheme == "http" and not is_loopback(host):
        raise BadAddress(danger, "use https://; http:// works on loopback only")
    return text


def _split(text: str, remedy: str) -> SplitResult:
    # urlsplit drops tabs and line ends without a word, so they must not get there.
    if not text.isprintable() or " " in text:
        raise BadAddress("holds white space", remedy)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise BadAddress("is no address", remedy) from None
    if "@" in parts.netloc:
        raise BadAddress("holds a user name or password", "remove what stands before the @")
    if "#" in text:
        raise BadAddress("has a fragment", "remove the # and what follows")
    return parts


def _host(parts: SplitResult, remedy: str) -> str:
    host = parts.hostname or ""
    if not host or len(host) > MAX_HOST:
        raise BadAddress("has no host", remedy)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    words = host.removesuffix(".").split(".")
    if ":" in host or not all(word and word.replace("-", "").replace("_", "").isalnum() for word in words):
        raise BadAddress("has a host name that can't be one", remedy)
    return host


def _port(parts: SplitResult, default: int, remedy: str) -> int:
    port = _port_or_none(parts, remedy)
    if port == 0:
        raise BadAddress("has a port that does not exist", remedy)
    return default if port is None else port


def _port_or_none(parts: SplitResult, remedy: str) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise BadAddress("has a port that does not exist", remedy) from None
