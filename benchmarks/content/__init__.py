"""Do encoders of texts, pictures and words know what they should?"""
