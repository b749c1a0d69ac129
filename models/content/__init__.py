"""What items read, look and sound like, as vectors. Arrays and texts in, arrays out; encoders' weights come with their packages, nothing is fetched."""
