"""The proxies beside which Gatepost stands, each as a context manager that gives a Target; *direct* is no proxy."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.clients import Login
from bench.driver import Target
from tests.lab import Lab
from tests.lab.ports import PortReservation
from tests.lab.process import Account, Server
from tests.lab.programs import DOVECOT, dovecot_version

NGINX = "/usr/sbin/nginx"
PEERS_VENV = Path(__file__).parent / ".peers"
CONNECTIONS = 6000
PASSWORD = "any-will-do"
READY_S = 20.0

NGINX_CONFIG = """\
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user {user} {group};
worker_processes auto;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 15000; }}
mail {{
    server_name localhost;
    auth_http 127.0.0.1:{auth};
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    timeout 30m;
    server {{
        listen 127.0.0.1:{imaps} ssl backlog=4096;
        protocol imap;
    }}
    server {{
        listen 127.0.0.1:{smtps} ssl backlog=4096;
        protocol smtp;
        smtp_auth plain login;
        xclient off;
        proxy_smtp_auth on;
    }}
}}
"""

# As Dovecot's own documentation has it for proxies with many clients: login processes that live on.
DOVECOT_CONFIG = """\
base_dir = {run}
state_dir = {directory}/state
instance_name = bench-proxy
log_path = {log}
protocols = imap submission
listen = 127.0.0.1
hostname = localhost
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 0
first_valid_gid = 0
mail_max_userip_connections = 0
ssl = required
ssl_cert = <{certificate}
ssl_key = <{key}
ssl_require_crl = no
ssl_ca = <{ca}
auth_mechanisms = plain login
auth_failure_delay = 0
passdb {{
  driver = static
  args = proxy=y host=127.0.0.1 port=%{{if;%{{service}};eq;imap;{upstream_imaps};{upstream_smtps}}} ssl=yes nopassword=y
}}
service imap-login {{
  chroot =
  service_count = 0
  client_limit = {connections}
  process_min_avail = {cores}
  inet_listener imap {{
    port = 0
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
  process_min_avail = {cores}
  inet_listener submission {{
    port = 0
  }}
  inet_listener submissions {{
    port = {smtps}
    ssl = yes
  }}
}}
service auth {{
  client_limit = 15000
}}
service anvil {{
  client_limit = 15000
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  client_limit = 15000
  chroot =
}}
"""

OAUTH2_PROXY_CONFIG = """\
[IMAP-{imaps}]
local_address = 127.0.0.1
local_certificate_path = {certificate}
local_key_path = {key}
server_address = localhost
server_port = {upstream_imaps}

[SMTP-{smtps}]
local_address = 127.0.0.1
local_certificate_path = {certificate}
local_key_path = {key}
server_address = localhost
server_port = {upstream_smtps}

"""

# This grant spares it the person at a browser; the token is stored and used in the same way.
OAUTH2_PROXY_ACCOUNT = """\
[{user}]
token_url = {token_url}
oauth2_scope = mail
oauth2_flow = client_credentials
redirect_uri = http://localhost
client_id = {client_id}
client_secret = {client_secret}

"""


@contextmanager
def direct(lab: Lab, users: list[str], _directory: Path) -> Iterator[Target]:
    """The upstream itself: the ceiling of the load generator and the upstream together."""
    logins = [Login(user, "any-token", is_token=True) for user in users]
    yield Target("direct", lab.imaps.port, lab.submissions.port, logins, None, f"Dovecot {dovecot_version()}")


@contextmanager
def nginx(lab: Lab, users: list[str], directory: Path) -> Iterator[Target]:
    """The mail module of nginx; its upstream leg is in the clear."""
    directory.mkdir()
    account = Account.for_servers()
    ports = PortReservation()
    imaps, smtps, auth = (ports.take() for _ in range(3))
    config = directory / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(
            directory=directory,
            user=account.user,
            group=account.group,
            auth=auth,
            imaps=imaps,
            smtps=smtps,
            certificate=lab.certificates.server.chain_file,
            key=lab.certificates.server.key_file,
        )
    )
    answers = [sys.executable, Path(__file__).with_name("nginx_auth.py")]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([*answers, str(auth), str(lab.imap.port), str(lab.submission.port)], stderr=log) as helper,
        subprocess.Popen([NGINX, "-c", config, "-p", directory], stderr=log) as process,
    ):
        try:
            _await(helper, auth)
            _await(process, imaps)
            told = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
            logins = [Login(user, PASSWORD, is_token=False) for user in users]
            yield Target("nginx", imaps, smtps, logins, process.pid, told.strip().rpartition("/")[2])
        finally:
            process.terminate()
            helper.terminate()
            ports.release()


@contextmanager
def dovecot(lab: Lab, users: list[str], directory: Path) -> Iterator[Target]:
    """Dovecot's login processes as a proxy, TLS on both legs."""
    account = Account.for_servers()
    directory.mkdir()
    (directory / "run").mkdir()
    (directory / "state").mkdir()
    for each in (directory, directory / "run", directory / "state"):
        account.own(each)
    ports = PortReservation()
    imaps, smtps = ports.take(), ports.take()
    config = directory / "dovecot.conf"
    config.write_text(
        DOVECOT_CONFIG.format(
            run=directory / "run",
            directory=directory,
            log=directory / "log",
            user=account.user,
            group=account.group,
            uid=account.uid,
            gid=account.gid,
            certificate=lab.certificates.server.chain_file,
            key=lab.certificates.server.key_file,
            ca=lab.ca_file,
            imaps=imaps,
            smtps=smtps,
            upstream_imaps=lab.imaps.port,
            upstream_smtps=lab.submissions.port,
            connections=CONNECTIONS,
            cores=os.cpu_count(),
        )
    )
    server = Server("proxy", log_file=directory / "log", pid_directory=directory, account=account, lingerer="/log")
    server.launch([DOVECOT, "-F", "-c", config], cwd=directory)
    try:
        pid = int((directory / "proxy").read_text().split()[0])
        _await(None, imaps)
        logins = [Login(user, PASSWORD, is_token=False) for user in users]
        yield Target("dovecot", imaps, smtps, logins, pid, dovecot_version())
    finally:
        server.kill()
        ports.release()


@contextmanager
def oauth2_proxy(lab: Lab, users: list[str], directory: Path) -> Iterator[Target]:
    """email-oauth2-proxy, TLS on both legs, tokens from the lab's identity provider."""
    directory.mkdir()
    ports = PortReservation()
    imaps, smtps = ports.take(), ports.take()
    config = directory / "emailproxy.config"
    text = OAUTH2_PROXY_CONFIG.format(
        imaps=imaps,
        smtps=smtps,
        certificate=lab.certificates.server.chain_file,
        key=lab.certificates.server.key_file,
        upstream_imaps=lab.imaps.port,
        upstream_smtps=lab.submissions.port,
    )
    for user in users:
        text += OAUTH2_PROXY_ACCOUNT.format(
            user=user,
            token_url=lab.idp.token_url,
            client_id=lab.idp.client_id,
            client_secret=lab.idp.client_secret,
        )
    config.write_text(text)
    python = PEERS_VENV / "bin" / "python"
    version = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(m.version('emailproxy'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            [python, "-m", "emailproxy", "--no-gui", "--config-file", config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env={**os.environ, "SSL_CERT_FILE": str(lab.ca_file)},
        ) as process,
    ):
        try:
            _await(process, imaps)
            logins = [Login(user, PASSWORD, is_token=False) for user in users]
            name = "email-oauth2-proxy"
            yield Target(name, imaps, smtps, logins, process.pid, version.stdout.strip(), pace=0.1)
        finally:
            process.kill()
            ports.release()


@contextmanager
def floor(lab: Lab, users: list[str], directory: Path, wrapper: tuple[str, ...] = ()) -> Iterator[Target]:
    """bench.floor: our transport without Gatepost, TLS on both legs. `wrapper`: a program that runs it."""
    directory.mkdir()
    ports = PortReservation()
    imaps, smtps = ports.take(), ports.take()
    certificate = lab.certificates.server
    upstream = [str(lab.imaps.port), str(lab.submissions.port)]
    words = [str(imaps), str(smtps), *upstream, certificate.chain_file, certificate.key_file, lab.ca_file]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            [*wrapper, sys.executable, "-m", "bench.floor", *words], stderr=log, process_group=0
        ) as process,
    ):
        try:
            _await(process, smtps)
            logins = [Login(user, PASSWORD, is_token=False) for user in users]
            yield Target("floor", imaps, smtps, logins, process.pid, f"CPython {platform.python_version()}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            ports.release()


def _await(process: subprocess.Popen[bytes] | None, port: int) -> None:
    deadline = time.monotonic() + READY_S
    listening = re.compile(rf":{port:04X} [0-9A-F]+:0000 0A ")
    while not any(listening.search(Path(f"/proc/net/{name}").read_text()) for name in ("tcp", "tcp6")):
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError(f"nobody listens on port {port}")
        time.sleep(0.05)
