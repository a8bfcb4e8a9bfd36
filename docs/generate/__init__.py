"""Makes the pages that say what the code says: `python -m docs.generate` (make docs). A test holds them current.

docs/cli.md, docs/man/gatepost.1                    from the parser (proxy/cli/grammar) and examples.py
docs/configuration.md, docs/man/gatepost.toml.5     from config/gatepost.example.toml and proxy/config/model.py
"""
