"""OAuth2: tokens for mailboxes, always fresh, never lost; and the sign-ins that give the first of them."""

from proxy.oauth.broker import TokenBroker
from proxy.oauth.client import Grant, TokenClient

__all__ = ["Grant", "TokenBroker", "TokenClient"]
