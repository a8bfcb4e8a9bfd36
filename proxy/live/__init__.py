"""What goes on now: sessions here and elsewhere, and what a worker tells of itself."""
