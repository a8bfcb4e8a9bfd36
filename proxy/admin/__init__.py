"""Every management verb, over store and vault: what the command line, the web page and the control socket may do.

No asyncio, no printing, no argument parsing. A verb works at a `desk`, and what people typed comes through `inputs`.
SQLAlchemy, argon2 and cryptography are imported only by the verbs that need them, so that `gatepost list` stays quick.
"""

from proxy.admin.finding import Finding

__all__ = ["Finding"]
