"""The page's own unit in the booted systemd: it starts, answers, shows a new certificate, and stops."""

from __future__ import annotations

import http.client
import re
import ssl

from tests.systemd.conftest import Installed, serial_of

PAGE = """
[upstream.office]
imap = "imaps://localhost:1"
[upstream.office.oauth2]
client_id = "page"
client_secret = "env:PAGE_SECRET"
issuer = "https://localhost:1"
[web]
address = "0.0.0.0:443"
public_url = "https://localhost"
upstream = "office"
certificate = "tls/cert.pem"
key = "tls/key.pem"
"""
UNIT = "gatepost-web.service"


def get(installed: Installed, path: str) -> tuple[int, str, int]:
    """Status, text, and the serial number of the certificate that was shown."""
    trust = ssl.create_default_context(cafile=str(installed.house.directory / "cert.pem"))
    page = http.client.HTTPSConnection("localhost", 443, timeout=20, context=trust)
    try:
        page.request("GET", path)
        answer = page.getresponse()
        text = answer.read().decode()
        assert isinstance(page.sock, ssl.SSLSocket)
        der = page.sock.getpeercert(binary_form=True)
        assert der is not None
        return answer.status, text, serial_of(ssl.DER_cert_to_PEM_cert(der).encode())
    finally:
        page.close()


def test_the_page_has_a_unit_of_its_own(installed: Installed) -> None:
    box = installed.box
    installed.write_config(more=PAGE)
    box.run("systemctl", "stop", "gatepost.service", "gatepost-imaps.socket")
    box.run("systemctl", "start", UNIT)
    said = lambda: box.run("journalctl", f"--unit={UNIT}", "--output=cat", "--no-pager")  # noqa: E731 - asked often
    box.until("the page is ready", lambda: "event=web_ready" in said())
    status, text, before = get(installed, "/")
    assert status == 200
    assert re.search(r"<title>App passwords", text)
    (main,) = box.show("MainPID", unit=UNIT)
    fields = dict(line.split(":\t", 1) for line in (box.root / f"proc/{main}/status").read_text().splitlines())
    assert fields["NoNewPrivs"] == "1"
    assert set(fields["Uid"].split()) == {box.run("id", "-u", "gatepost").strip()}

    serial = installed.write_certificate()
    assert serial != before
    box.until("the new certificate is shown", lambda: get(installed, "/")[2] == serial)
    assert box.show("MainPID", unit=UNIT) == [main]
    assert get(installed, "/")[0] == 200

    box.run("systemctl", "stop", UNIT)
    assert box.show("ActiveState", "Result", "ExecMainStatus", unit=UNIT) == ["inactive", "success", "0"]
    assert "Traceback" not in said()
