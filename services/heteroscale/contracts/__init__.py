"""What travels: messages, ids, units, codec and the topic catalogue."""
