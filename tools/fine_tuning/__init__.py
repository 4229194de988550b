"""What `tools.fine_tune` begins with, what it trains on, and what it says at its end."""
