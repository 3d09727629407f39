"""What a played day gave: the loop's answers as they come, the view of them, and the figures at the end."""
