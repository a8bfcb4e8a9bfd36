"""Every management verb, over store and vault: what the CLI, and later the web page, may do.

No asyncio, no printing, no argument parsing. Modules: `desk` (what a verb works at), `inputs` (what people type),
`accounts`, `passwords`, `life` (rotate, suspend, resume), `sessions`, `audit`, `setup` (init, db upgrade), `examine`
(check). Imports of SQLAlchemy, argon2 and cryptography happen only in the verbs that need them, so that `gatepost list`
stays quick.
"""

from proxy.admin.finding import Finding

__all__ = ["Finding"]
