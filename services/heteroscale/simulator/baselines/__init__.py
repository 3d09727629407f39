"""Other autoscalers, each written from its own documentation: windows in, counts out."""
