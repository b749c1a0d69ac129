"""What items look and sound like, as vectors (what they read: service/meaning.py). Arrays in, arrays out; encoders' weights come with their packages, nothing is fetched."""
