"""The configuration that `gatepost init` writes: short, working, made to be edited."""

FIRST_CONFIG = """\
# Gatepost's configuration, written by "gatepost init". Then:
#
#   1. put your mail server and its token endpoint in below (the lines marked EDIT)
#   2. gatepost check
#   3. gatepost account add ann@example.com --upstream main --refresh-token-stdin
#   4. gatepost create ann@example.com --name "Scanner"
#   5. gatepost serve
#
# Relative file names start at this file. Every key there is, with its default: gatepost.example.toml.

[store]
url = "sqlite:///gatepost.db"

[keys]
# Opens the stored tokens. Keep a copy apart from the database: neither is of use without the other.
master = "file:master.key"

[tls]
# Self-signed, so mail programs will ask before they trust it. EDIT: name a real certificate when you have one.
certificate = "cert.pem"
key = "key.pem"

# What mail programs connect to.
[[listen]]
protocol = "imap"
address = "0.0.0.0:993"
tls = "implicit"

[[listen]]
protocol = "smtp"
address = "0.0.0.0:465"
tls = "implicit"

[[listen]]
protocol = "smtp"
address = "0.0.0.0:587"
tls = "starttls"

# The real mail server. "imaps://" and "smtps://" are TLS from the first byte, "imap://" and "smtp://" STARTTLS.
[upstream.main]
imap = "imaps://mail.example.com:993"    # EDIT; Microsoft 365: imaps://outlook.office365.com:993
smtp = "smtp://mail.example.com:587"     # EDIT; Microsoft 365: smtp://smtp.office365.com:587

# Where its access tokens come from. (For a server that takes passwords: remove this table, and say
# auth = "password" in the one above.)
[upstream.main.oauth2]
client_id = "your-client-id"                       # EDIT
token_url = "https://login.example.com/token"      # EDIT; https://login.microsoftonline.com/TENANT/oauth2/v2.0/token
# client_secret = "file:client.secret"             # for a confidential client: the file holds the secret
# scopes = ["offline_access", "..."]                 # as your provider names them; Microsoft 365: see the example
"""
