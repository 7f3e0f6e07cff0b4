"""What a screen shows, without a terminal: phases, rows, texts, and the model of an overview."""
