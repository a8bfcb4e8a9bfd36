"""Everything cryptographic: app passwords, argon2id, sealing. The sole importer of argon2 and cryptography."""
