"""What runs a network: named arrays in, named arrays out. Engines know no frames."""
