"""What a shopper may ask for: to be forgotten (GDPR 17, PIPL 47) and to be told all that is known of them (15, 45). A program beside the stages, as pipelines/delivery is."""
