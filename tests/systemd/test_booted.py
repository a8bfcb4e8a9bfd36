"""Gatepost in a real, booted systemd: started, reloaded, restarted, hurt and stopped.

The tests share one container and run in their order; each leaves the service running.
"""

from __future__ import annotations

import json
import re
import threading

from tests.leaks import leaked
from tests.systemd.box import Box
from tests.systemd.conftest import SOCKETS, Installed
from tests.whole.kit import UPSTREAM_PASSWORD, USER

CROWD = 100
STUCK_LOGINS = 30


def test_it_starts_through_the_socket_units_and_serves_when_it_says_so(installed: Installed) -> None:
    box = installed.box
    assert box.show("ActiveState", "Type", "User", "Result") == ["active", "notify", "gatepost", "success"]
    imap, smtp = installed.idle(), installed.house.smtp_session()
    assert installed.still_idles(imap)
    assert smtp.ask(b"NOOP") == b"250 OK"
    box.until("the status line counts them", lambda: "2 sessions, 1 accounts, 0 need" in box.show("StatusText")[0])
    imap.close()
    smtp.close()
    assert "event=ready" in box.journal()


def test_no_process_of_it_has_a_privilege(installed: Installed) -> None:
    box = installed.box
    (main,) = box.show("MainPID")
    for pid in [int(main), *installed.workers()]:
        status = (box.root / f"proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert set(fields["Uid"].split()) == {box.run("id", "-u", "gatepost").strip()}
        maps = box.run("cat", f"/proc/{pid}/maps")
        assert [line for line in maps.splitlines() if "wx" in line.split()[1]] == []


def test_the_journal_has_a_priority_for_each_line_and_no_secret(installed: Installed) -> None:
    box = installed.box
    installed.idle().close()
    client = installed.house.connect(installed.house.imaps)
    client.line()
    assert client.ask(b'a1 LOGIN ann@example.org "no such password"').startswith(b"a1 NO")
    client.close()
    box.until("all is logged", lambda: "result=refused" in (said := box.journal()) and "event=session_end" in said)
    entries = [json.loads(line) for line in box.journal("--output=json").splitlines()]
    events = {
        match[1]: entry["PRIORITY"]
        for entry in entries
        if (match := re.match(r"event=(\w+)", entry.get("MESSAGE", "")))
    }
    assert events["login"] == events["session_end"] == events["ready"] == "6"
    key = box.run("systemd-creds", "decrypt", "--name=gatepost-master", "/etc/credstore.encrypted/gatepost-master", "-")
    text = "\n".join(str(entry.get("MESSAGE")) for entry in entries)
    assert leaked(text, [installed.house.password, UPSTREAM_PASSWORD, key.strip()]) == []


def test_a_session_has_one_id_from_login_to_end(installed: Installed) -> None:
    box = installed.box
    client = installed.idle()
    client.close()
    logins = [line for line in box.journal().splitlines() if "event=login" in line and "result=ok" in line]
    (session,) = re.findall(r" id=(\w+)", logins[-1])
    box.until("its end is logged", lambda: re.search(rf"event=session_end .* id={session}\b", box.journal()))


def test_each_value_of_a_line_is_a_field_of_the_journal(installed: Installed) -> None:
    box = installed.box
    installed.idle().close()
    box.until("its end is logged", lambda: ended(box, ""))
    words = ("GATEPOST_EVENT=login", "GATEPOST_RESULT=ok", f"GATEPOST_USER={USER}")
    login = json.loads(box.journal("--output=json", *words).splitlines()[-1])
    assert (login["_TRANSPORT"], login["PRIORITY"], login["SYSLOG_IDENTIFIER"]) == ("journal", "6", "gatepost")
    assert login["_SYSTEMD_UNIT"] == "gatepost.service"
    assert int(login["_PID"]) in installed.workers()
    session = login["GATEPOST_SESSION"]
    box.until("its end is logged", lambda: ended(box, session))
    found = box.run("journalctl", f"GATEPOST_SESSION={session}", "--output=cat", "--no-pager").splitlines()
    assert len(found) >= 2
    assert all(f"id={session}" in line for line in found)


def ended(box: Box, session: str) -> bool:
    return re.search(rf"event=session_end .* id={session}", box.journal()) is not None


def test_a_journal_that_is_stuck_holds_nobody_up(installed: Installed) -> None:
    box = installed.box
    (journald,) = box.show("MainPID", unit="systemd-journald.service")
    box.signal("STOP", journald)
    try:
        for _ in range(STUCK_LOGINS):
            installed.idle().close()
    finally:
        box.signal("CONT", journald)
    logins = ("GATEPOST_EVENT=login", "GATEPOST_RESULT=ok")
    before = len(box.journal(*logins).splitlines())
    installed.idle().close()
    box.until("what waited is there", lambda: len(box.journal(*logins).splitlines()) > before)
    assert before >= STUCK_LOGINS


def test_check_with_a_login_goes_through_the_service_for_those_who_may(installed: Installed) -> None:
    box = installed.box
    report = json.loads(box.run("gatepost", "check", "--login", USER, "--json"))
    names = [finding["name"] for finding in report["findings"]]
    assert report["ok"], report
    assert {"master key", f"login {USER} imap", f"login {USER} smtp"} <= set(names)
    box.shell("useradd helper --groups gatepost; useradd stranger")
    config = "--config=/etc/gatepost/gatepost.toml"
    assert "mailbox answers" in box.run("runuser", "-u", "helper", "--", "gatepost", "check", "--login", USER, config)
    refused = box.run(
        "runuser", "-u", "stranger", "-g", "stranger", "--", "python3", "-c",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/gatepost/control')", code=1,
    )  # fmt: skip
    assert "PermissionError" in refused


def test_the_master_key_changes_in_its_credential_and_nobody_notices(installed: Installed) -> None:
    box = installed.box
    credential = "/etc/credstore.encrypted/gatepost-master"
    assert "has no new key in front" in box.run("gatepost", "key", "rotate", code=1)
    before = box.run("systemd-creds", "decrypt", "--name=gatepost-master", credential, "-").split()
    box.shell(
        f"""
        {{ gatepost key new; systemd-creds decrypt --name=gatepost-master {credential} -; }} |
            systemd-creds encrypt --name=gatepost-master - {credential}.new
        mv {credential}.new {credential}
        systemctl restart gatepost
        """
    )
    rotated = json.loads(box.run("gatepost", "key", "rotate", "--json"))
    assert (rotated["secrets"], len(rotated["dropped"]), rotated["file"]) == (1, 1, None)
    installed.idle().close()
    box.shell(
        f"""
        systemd-creds decrypt --name=gatepost-master {credential} - | head -n 1 |
            systemd-creds encrypt --name=gatepost-master - {credential}.new
        mv {credential}.new {credential}
        systemctl restart gatepost
        """
    )
    installed.idle().close()
    after = box.run("systemd-creds", "decrypt", "--name=gatepost-master", credential, "-").split()
    assert len(before) == len(after) == 1
    assert before != after


def test_reload_takes_everything_over_and_a_live_session_does_not_notice(installed: Installed) -> None:
    """Certificate, upstream and listeners at once."""
    box = installed.box
    idle = installed.idle()
    (before,) = box.show("MainPID")
    serial = installed.write_certificate()
    installed.listeners += (("imap", "127.0.0.1:10993", "implicit"),)
    installed.write_config(more='[upstream.other]\nimap = "imaps://localhost:1"\nauth = "password"\n')
    box.run("systemctl", "reload", "gatepost")
    assert "event=reloaded generation=2" in box.journal()
    box.until("the new certificate is served", lambda: installed.served_serial() == serial)
    added = installed.house.connect(installed.house.imaps._replace(port=10993))
    assert added.line().startswith(b"* OK")
    added.close()
    assert installed.still_idles(idle)
    assert box.show("MainPID", "ActiveState") == [before, "active"]
    box.until("its status tells", lambda: "under an earlier configuration" in box.show("StatusText")[0])
    idle.close()
    box.until("the former workers are gone", lambda: len(installed.workers()) == 2)


def test_a_bad_configuration_is_refused_in_one_line_and_the_old_one_lives_on(installed: Installed) -> None:
    box = installed.box
    idle, lines = installed.idle(), box.journal().count("event=reload_refused")
    good = (installed.etc / "gatepost.toml").read_text()
    (installed.etc / "gatepost.toml").write_text(good + "[nonsense]\n")
    said = box.run("systemctl", "reload", "gatepost", code=1)
    assert "Job for gatepost.service failed" in said
    assert box.journal().count("event=reload_refused") == lines + 1
    assert re.search(r"^gatepost: .*nonsense", box.journal(), re.MULTILINE)  # what ExecReload= said
    assert box.show("ActiveState", "Result") == ["active", "success"]
    (installed.etc / "gatepost.toml").write_text(good)
    assert installed.still_idles(idle)
    idle.close()
    installed.idle().close()


def test_a_certificate_that_changes_is_picked_up_and_one_that_does_not_fit_is_not(installed: Installed) -> None:
    box = installed.box
    serial = installed.write_certificate()
    box.until("the new certificate is served", lambda: installed.served_serial() == serial)
    key = installed.etc / "tls/key.pem"
    good = key.read_bytes()
    key.write_bytes(installed.authority.issue_cert("localhost").private_key_pem.bytes())
    box.until("it is refused", lambda: "event=certificate_refused" in box.journal())
    assert installed.served_serial() == serial
    key.write_bytes(good)


def test_no_client_is_refused_while_it_restarts(installed: Installed) -> None:
    box = installed.box
    greeted, failures, over = [0], [], threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            try:
                client = installed.house.connect(installed.house.imaps)
                if client.line().startswith(b"* OK"):  # a BYE is for those who met the one that ends
                    greeted[0] += 1
                client.close()
            except Exception as error:
                failures.append(repr(error))

    (before,) = box.show("MainPID")
    visitors = [threading.Thread(target=come_and_go) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    box.run("systemctl", "restart", "gatepost")
    over.set()
    for visitor in visitors:
        visitor.join()
    assert failures == []
    assert greeted[0] > 0
    assert box.show("MainPID") != [before]
    installed.idle().close()


def test_a_worker_that_is_killed_is_replaced(installed: Installed) -> None:
    box = installed.box
    before = installed.workers()
    box.signal("KILL", str(before[0]))
    box.until("it is replaced", lambda: len(set(installed.workers()) - {before[0]}) == 2)
    assert set(before[1:]) <= set(installed.workers())
    installed.idle().close()


def test_a_worker_that_hangs_is_killed_and_replaced_and_the_others_do_not_notice(installed: Installed) -> None:
    box = installed.box
    (main, restarts), before = box.show("MainPID", "NRestarts"), installed.workers()
    box.signal("STOP", str(before[0]))
    box.until("it is replaced", lambda: before[0] not in (now := installed.workers()) and len(now) == 2)
    assert "event=worker_frozen" in box.journal()
    assert box.show("MainPID", "NRestarts") == [main, restarts]
    installed.idle().close()


def test_a_supervisor_that_hangs_is_started_anew_by_the_watchdog(installed: Installed) -> None:
    box = installed.box
    (main,) = box.show("MainPID")
    box.signal("STOP", main)
    box.until("it is started anew", lambda: box.show("MainPID", "ActiveState") != [main, "active"])
    box.until("it serves", lambda: box.show("ActiveState", "SubState") == ["active", "running"])
    assert "watchdog" in box.run("journalctl", "--unit=gatepost", "--no-pager").lower()
    installed.idle().close()


def test_it_stops_with_a_hundred_live_sessions_in_time_and_well(installed: Installed) -> None:
    box = installed.box
    crowd = [installed.idle() for _ in range(CROWD)]
    box.until("all are counted", lambda: f"{CROWD} sessions" in box.show("StatusText")[0])
    box.run("systemctl", "stop", *(f"gatepost-{name}.socket" for name in SOCKETS))
    box.run("systemctl", "stop", "gatepost")
    for client in crowd:
        assert client.rest() == b""  # a clean close, and no word
        client.close()
    assert box.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
