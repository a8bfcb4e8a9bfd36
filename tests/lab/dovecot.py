"""Dovecot 2.3: IMAP with LMTP, or submission; OAuth2 tokens only, checked by the identity provider."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.lab.certs import Certificate
from tests.lab.process import Account, Part, Server, greets
from tests.lab.programs import DOVECOT

MECHANISMS = "xoauth2 oauthbearer"
CONNECTIONS = 6000  # at once, per protocol: more than a benchmark on a laptop opens
AUTH_CONNECTIONS = 15000  # Dovecot warns if these could be fewer than its login and mail processes together

CONFIG = """\
base_dir = {run}
state_dir = {state}
instance_name = gatepost-lab-{name}
log_path = {log}
login_log_format_elements = user=<%u> method=%m rip=%r session=<%{{session}}> %c
protocols = {protocols}
listen = 127.0.0.1
hostname = localhost
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
mail_location = maildir:{mail}/%u
imap_idle_notify_interval = 29 mins  # else it says "Still here" to tests that take long
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 0
first_valid_gid = 0
mail_max_userip_connections = {max_user_connections}
ssl = {ssl}
ssl_min_protocol = TLSv1.2
ssl_cert = <{chain_file}
ssl_key = <{key_file}
disable_plaintext_auth = {refuses_clear}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
{passdb}# LMTP cannot look a user up in an oauth2 passdb: whoever is delivered to exists.
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={mail}/%u allow_all_users=yes
}}
# chroot needs root.
service imap-login {{
  chroot =
  # One process for all connections: starting one for each would be half of what a benchmark measures.
  service_count = 0
  vsz_limit = 2G  # one process for thousands of TLS connections
  client_limit = {connections}
  process_limit = 1
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service submission-login {{
  chroot =
  service_count = 0
  client_limit = {connections}
  process_limit = 1
  inet_listener submission {{
    port = {submission}
  }}
  inet_listener submissions {{
    port = {submissions}
    ssl = yes
  }}
}}
service imap {{
  process_limit = {connections}
{reuse}}}
service submission {{
  process_limit = {connections}
{reuse}}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service auth {{
  client_limit = {auth_connections}
  inet_listener {{
    port = {sasl}
  }}
}}
service anvil {{
  client_limit = {auth_connections}
  chroot =
{penalty}}}
service stats {{
  client_limit = {auth_connections}
  chroot =
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
submission_relay_ssl = no
"""

# After a failed login Dovecot delays all later logins from that address. To a test the whole world is one address.
NO_PENALTY = """\
  unix_listener anvil-auth-penalty {
    mode = 0
  }
"""

BY_PROVIDER = """\
passdb {{
  driver = oauth2
  mechanisms = {mechanisms}
  args = {oauth2}
}}
"""

# XOAUTH2 hands the token to a passdb as the password, and this one takes any.
BY_NOBODY = """\
passdb {
  driver = static
  args = nopassword=y
}
"""
REUSE = "  service_count = 1000\n"

OAUTH2 = """\
introspection_mode = post
introspection_url = http://{client_id}:{client_secret}@127.0.0.1:{idp}/token/introspection
force_introspection = yes
username_attribute = email
active_attribute = active
active_value = true
scope = mail
openid_configuration_url = http://127.0.0.1:{idp}/.well-known/openid-configuration
timeout_msecs = 5000
"""


@dataclass(frozen=True, slots=True)
class DovecotSettings:
    """What one Dovecot instance is to do. Ports that are 0 are not opened.

    has_auth_penalty      whether failed logins slow later ones from the same address, as Dovecot does by default
    max_user_connections  IMAP sessions per user and address before "[LIMIT]" (Dovecot's own default is 10)
    relay                 the port that submission hands mail on to
    is_trusting           take any password and token, also in the clear, and keep mail processes for the next session:
                          for benchmarks, whose upstream must cost little
    """

    protocols: str
    idp: int
    introspection_client_id: str
    introspection_client_secret: str
    has_auth_penalty: bool
    max_user_connections: int
    imap: int = 0
    imaps: int = 0
    submission: int = 0
    submissions: int = 0
    lmtp: int = 0
    sasl: int = 0
    relay: int = 0
    is_trusting: bool = False


class Dovecot(Part):
    """One Dovecot instance below `directory`; its mail lies in `mail`, one Maildir per user."""

    def __init__(
        self,
        server: Server,
        settings: DovecotSettings,
        *,
        directory: Path,
        mail: Path,
        account: Account,
        certificate: Certificate,
    ) -> None:
        self.server = server
        self.certificate = certificate  # may be exchanged while stopped, to show clients a bad one
        self._settings = settings
        self._directory = directory
        self._mail = mail
        self._account = account

    def launch(self) -> None:
        """Write the configuration and start Dovecot in the foreground."""
        settings, run, state = self._settings, self._directory / "run", self._directory / "state"
        trusting = settings.is_trusting
        # A run directory of the last start makes auth wait 5 s for the anvil socket that the penalty setting closed.
        shutil.rmtree(run, ignore_errors=True)
        for directory in (self._directory, run, state):
            directory.mkdir(exist_ok=True)
            self._account.own(directory)
        oauth2 = self._write(
            "oauth2.ext",
            OAUTH2.format(
                idp=settings.idp,
                client_id=quote(settings.introspection_client_id, safe=""),
                client_secret=quote(settings.introspection_client_secret, safe=""),
            ),
        )
        config = self._write(
            "dovecot.conf",
            CONFIG.format(
                name=f"{settings.imap or settings.submission}",
                run=run,
                state=state,
                log=self.server.log_file,
                protocols=settings.protocols,
                user=self._account.user,
                group=self._account.group,
                uid=self._account.uid,
                gid=self._account.gid,
                mail=self._mail,
                max_user_connections=settings.max_user_connections,
                chain_file=self.certificate.chain_file,
                key_file=self.certificate.key_file,
                mechanisms=f"plain login {MECHANISMS}" if trusting else MECHANISMS,
                passdb=BY_NOBODY if trusting else BY_PROVIDER.format(mechanisms=MECHANISMS, oauth2=oauth2),
                refuses_clear="no" if trusting else "yes",
                ssl="yes" if trusting else "required",
                reuse=REUSE if trusting else "",
                connections=CONNECTIONS,
                auth_connections=AUTH_CONNECTIONS,
                imap=settings.imap,
                imaps=settings.imaps,
                submission=settings.submission,
                submissions=settings.submissions,
                lmtp=settings.lmtp,
                sasl=settings.sasl,
                relay=settings.relay,
                penalty="" if settings.has_auth_penalty else NO_PENALTY,
            ),
        )
        self.server.launch([DOVECOT, "-F", "-c", config], cwd=self._directory)

    def await_ready(self) -> None:
        """Wait for the greeting, and for the SASL port that Postfix needs."""
        if self._settings.imap:
            self.server.wait_until(lambda: greets(self._settings.imap, b"* OK "))
        if self._settings.submission:
            self.server.wait_until(lambda: greets(self._settings.submission, b"220 "))
        if self._settings.sasl:
            self.server.wait_until(lambda: greets(self._settings.sasl, b"VERSION"))

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        self._account.own(path)
        return path
