"""From credentials to a passage: the one path, who may try how often, who is dialled."""
