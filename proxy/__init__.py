"""Gatepost: app passwords for mail behind MFA, an IMAP and SMTP authentication proxy."""

__version__ = "0.1.0"
