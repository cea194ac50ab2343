"""What a codec is, whichever family it is of: its numbers, what it does, and where its class is found."""
