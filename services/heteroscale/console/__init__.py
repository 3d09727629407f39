"""Views for people: live tables and closing tables."""
