// Go's net/http: fetches, uploads and asks for a range on one connection until the file `go-on` is gone.
//
// Argument: HOST:PORT. Prints each generation that answers. The transport would silently repeat a request whose
// connection was closed, on a new one: so the connections that it opens are counted.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func check(ok bool, what ...any) {
	if !ok {
		fmt.Println(append([]any{"error:"}, what...)...)
		os.Exit(1)
	}
}

func main() {
	base, dials := "http://"+os.Args[1], 0
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	ask := func(method, path string, body io.Reader, ranges string) (*http.Response, []byte) {
		request, err := http.NewRequest(method, base+path, body)
		check(err == nil, err)
		if ranges != "" {
			request.Header.Set("Range", ranges)
		}
		response, err := client.Do(request)
		check(err == nil, err)
		defer response.Body.Close()
		bytes, err := io.ReadAll(response.Body)
		check(err == nil, err)
		return response, bytes
	}
	upload := bytes.Repeat([]byte("0123456789abcdef"), 16000)
	_, whole := ask("GET", "/data.bin", nil, "")
	check(len(whole) == 1_000_000, len(whole))
	seen, requests := "", 0
	for {
		response, body := ask("GET", "/go-on", nil, "")
		if response.StatusCode == 404 {
			break
		}
		check(response.StatusCode == 200 && string(body) == "go on\n", response.Status)
		if generation := response.Header.Get("X-Generation"); generation != seen {
			fmt.Println("x-generation:", generation)
			seen = generation
		}
		response, body = ask("GET", "/data.bin", nil, "")
		check(response.StatusCode == 200 && bytes.Equal(body, whole), response.Status)
		response, body = ask("GET", "/data.bin", nil, "bytes=1000-1999")
		check(response.StatusCode == 206 && bytes.Equal(body, whole[1000:2000]), response.Status)
		response, body = ask("POST", "/echo", bytes.NewReader(upload), "")
		check(response.StatusCode == 200 && bytes.Equal(body, upload), response.Status)
		response, body = ask("POST", "/echo", io.MultiReader(bytes.NewReader(upload)), "") // in chunks
		check(response.StatusCode == 200 && bytes.Equal(body, upload), response.Status)
		requests += 5
	}
	check(dials == 1, dials, "connections")
	fmt.Println("done:", requests, "requests")
}
