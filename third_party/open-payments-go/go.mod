module github.com/interledger/open-payments-go

go 1.26

require github.com/dunglas/httpsfv v1.1.2
