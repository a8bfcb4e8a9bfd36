"""The store: what Gatepost keeps in its database, and the only importer of SQLAlchemy and Alembic.

`rows`, `people_rows` and `audit_rows` are plain data for every floor, and cost no import of SQLAlchemy (half a second):
so nothing of the other modules is offered here.
"""
