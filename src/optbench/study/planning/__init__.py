"""What a study will cost, on this machine or on a device known by its data sheet."""
