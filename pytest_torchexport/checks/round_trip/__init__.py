"""The check ``round_trip``: a saved, moved and loaded artifact does what it did in memory."""
