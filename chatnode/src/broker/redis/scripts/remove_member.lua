-- Keys as add_member. Arguments after the history: client.
remove(ARGV[2])
return 1
