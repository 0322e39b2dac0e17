"""What ``ferry bench`` measures: the search, the engine under load, and the machine that they run on."""
