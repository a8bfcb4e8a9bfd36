"""The one-time code of the practice sign-in, as an authenticator shows it: `python -m tests.lab.code SECRET`."""

import sys

from tests.lab.idp import totp_code

if __name__ == "__main__":
    print(totp_code(sys.argv[1]))
