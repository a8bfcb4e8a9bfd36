"""The configuration that `gatepost init` writes: short, working, made to be edited."""

UNEDITED_CLIENT_ID = "your-client-id"

FIRST_CONFIG = """\
# Gatepost's configuration, written by "gatepost init". Then:
#
#   1. say below which app you are at your mail provider (the lines marked EDIT)
#   2. gatepost check
#   3. gatepost account add ann@example.com --upstream main
#   4. gatepost account connect ann@example.com        (her sign-in with MFA)
#   5. gatepost create ann@example.com --name "Scanner"
#   6. gatepost serve
#
# Relative file names start at this file. Every key there is, with its default: gatepost.example.toml,
# which "gatepost init" names and config/ of the source has.

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

# The real mail server. Presets: microsoft365, outlook, gmail, google-workspace, fastmail, yahoo.
[upstream.main]
preset = "microsoft365"

# The app that you registered there.
[upstream.main.oauth2]
client_id = "your-client-id"                       # EDIT
# client_secret = "file:client.secret"             # EDIT: the file holds the secret; a public client has none
# tenant = "your-tenant-id"                        # EDIT for Microsoft 365, unless the app is for many tenants

# Any other mail server beside that one, or in its place. "imaps://" and "smtps://" are TLS from the first byte,
# "imap://" and "smtp://" STARTTLS. (For one that takes passwords: auth = "password", and no oauth2 table.)
#
# [upstream.other]
# imap = "imaps://mail.example.com:993"
# smtp = "smtp://mail.example.com:587"
#
# [upstream.other.oauth2]
# client_id = "your-client-id"
# client_secret = "file:client.secret"
# authorize_url = "https://login.example.com/authorize"
# token_url = "https://login.example.com/token"
# scopes = ["offline_access", "..."]
"""
