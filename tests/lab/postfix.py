"""Postfix as submission server, with Dovecot's SASL: needs root, as its master process does."""

import grp
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.certs import Certificate
from tests.lab.process import Part, Server, greets
from tests.lab.programs import POSTFIX_DAEMONS

MAIL_USER, DROP_GROUP = "postfix", "postdrop"  # made by the package

MAIN = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = {daemons}
maillog_file = {log}
maillog_file_prefixes = {log_prefix}
syslog_name = postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = localhost
mydestination =
mynetworks =
alias_maps =
alias_database =
local_recipient_maps =
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{sasl}
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {chain_file}
smtpd_tls_key_file = {key_file}
smtpd_tls_loglevel = 1
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_sender_restrictions =
virtual_mailbox_domains = {domains}
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}
default_transport = smtp:[127.0.0.1]:{sink}
# All clients of a test share one address: no limit per address, and enough processes for a benchmark.
smtpd_client_event_limit_exceptions = static:all
smtpd_client_connection_count_limit = 0
default_process_limit = 500
smtpd_error_sleep_time = 0
# A Dovecot that was away makes smtpd fail; the default would keep the port silent for a minute afterwards.
service_throttle_time = 1s
minimal_backoff_time = 1s
queue_run_delay = 2s
"""

MASTER = """\
127.0.0.1:{submission} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt
127.0.0.1:{submissions} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")


@dataclass(frozen=True, slots=True)
class PostfixSettings:
    """The ports that Postfix listens on (submission, submissions) and those it uses; domains go to LMTP."""

    submission: int
    submissions: int
    sasl: int
    lmtp: int
    sink: int
    domains: frozenset[str]


class Postfix(Part):
    """A Postfix instance of its own below `directory`, queue and all."""

    def __init__(
        self, server: Server, settings: PostfixSettings, *, directory: Path, log_prefix: Path, certificate: Certificate
    ) -> None:
        self.server = server
        self.certificate = certificate  # may be exchanged while stopped, to show clients a bad one
        self._settings = settings
        self._directory = directory
        self._log_prefix = log_prefix

    def launch(self) -> None:
        """Write the configuration, make the queue, and start Postfix's master in the foreground."""
        settings, etc = self._settings, self._directory / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        self._make_queue()
        main = MAIN.format(
            queue=self._directory / "queue",
            data=self._directory / "data",
            daemons=POSTFIX_DAEMONS,
            log=self.server.log_file,
            log_prefix=self._log_prefix,
            sasl=settings.sasl,
            lmtp=settings.lmtp,
            sink=settings.sink,
            domains=" ".join(sorted(settings.domains)),
            chain_file=self.certificate.chain_file,
            key_file=self.certificate.key_file,
        )
        (etc / "main.cf").write_text(main)
        # Postfix waits up to 1.5 s for a main.cf younger than a second, in case an editor is still writing it.
        long_ago = time.time() - 60
        os.utime(etc / "main.cf", (long_ago, long_ago))
        (etc / "master.cf").write_text(MASTER.format(submission=settings.submission, submissions=settings.submissions))
        # The `postfix` command would check all file owners first, which takes longer than the start itself.
        self.server.launch(
            [POSTFIX_DAEMONS / "master", "-s", "-c", etc], cwd=self._directory, env={"MAIL_CONFIG": str(etc)}
        )

    def await_ready(self) -> None:
        """Wait for the greeting; Dovecot must be ready before, or smtpd dies for want of mechanisms."""
        self.server.wait_until(lambda: greets(self._settings.submission, b"220 "))

    def _make_queue(self) -> None:
        """Make what Postfix's postfix-files asks for, with its owners and modes."""
        mail_uid, drop_gid = pwd.getpwnam(MAIL_USER).pw_uid, grp.getgrnam(DROP_GROUP).gr_gid
        queue = self._directory / "queue"
        _directory(queue, 0o755, 0, 0)
        _directory(queue / "pid", 0o755, 0, 0)
        for name in QUEUES:
            _directory(queue / name, 0o700, mail_uid, 0)
        _directory(queue / "maildrop", 0o730, mail_uid, drop_gid)
        _directory(queue / "public", 0o710, mail_uid, drop_gid)
        _directory(self._directory / "data", 0o700, mail_uid, 0)


def _directory(path: Path, mode: int, uid: int, gid: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, uid, gid)
