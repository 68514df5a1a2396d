"""The tissues a voxel outside the brain is made of, in the order of the atlas's labels."""

TISSUES = ("air", "csf", "blood", "eye", "soft tissue", "orbit", "mucosa", "skin", "cord", "bone", "marrow")
# the intensities that paint them; soft tissue is muscle and fat
PAINTS = ("air", "csf", "blood", "eye", "muscle", "orbit", "mucosa", "skin", "cord", "bone", "marrow", "fat")
BRAIN = len(TISSUES)  # in an atlas: what the brain covers
FATTY = ("soft tissue", "skin")  # painted as mixtures with fat
