"""Sans-IO protocol machines: bytes in, actions out. No asyncio, no clock, no logging."""
