"""The web page: people sign in with MFA, make app passwords, see each once, and revoke them.

A shell like the CLI: every verb is admin's. `serve` wires it and runs it in a process of its own, which holds no secret
of the store: deposits need the master key's public half alone.
"""
