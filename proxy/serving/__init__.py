"""`gatepost serve`: a supervisor, its generations of workers, and what they are made of."""
