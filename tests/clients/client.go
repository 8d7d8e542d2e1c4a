// Go's net/http: a pool of connections on which workers fetch, upload and ask for ranges until the file `go-on` is gone.
//
// Argument: http://HOST:PORT, or https. Prints each generation once it has answered every worker. The transport would
// silently repeat a request whose connection was closed, on a new one: so the connections that it opens are counted.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

const workers = 20

func check(ok bool, what ...any) {
	if !ok {
		fmt.Println(append([]any{"error:"}, what...)...)
		os.Exit(1)
	}
}

// What all workers share.
type shared struct {
	sync.Mutex
	client   *http.Client
	base     string
	dials    int
	requests int
	seen     [workers]int
	printed  int
}

func (all *shared) ask(method, path string, body io.Reader, ranges string) (*http.Response, []byte) {
	request, err := http.NewRequest(method, all.base+path, body)
	check(err == nil, err)
	if ranges != "" {
		request.Header.Set("Range", ranges)
	}
	response, err := all.client.Do(request)
	check(err == nil, err)
	defer response.Body.Close()
	bytes, err := io.ReadAll(response.Body)
	check(err == nil, err)
	all.Lock()
	defer all.Unlock()
	all.requests++
	return response, bytes
}

// Notes the generation that answered a worker, and prints those that have answered all of them.
func (all *shared) answered(worker, generation int) {
	all.Lock()
	defer all.Unlock()
	all.seen[worker] = generation
	least := generation
	for _, other := range all.seen {
		if other < least {
			least = other
		}
	}
	for ; all.printed < least; all.printed++ {
		fmt.Println("x-generation:", all.printed+1)
	}
}

func (all *shared) work(worker int, whole, upload []byte) {
	for {
		response, body := all.ask("GET", "/go-on", nil, "")
		if response.StatusCode == 404 {
			return
		}
		check(response.StatusCode == 200 && string(body) == "go on\n", response.Status)
		generation, err := strconv.Atoi(response.Header.Get("X-Generation"))
		check(err == nil, err)
		all.answered(worker, generation)
		response, body = all.ask("GET", "/data.bin", nil, "")
		check(response.StatusCode == 200 && bytes.Equal(body, whole), response.Status)
		response, body = all.ask("GET", "/data.bin", nil, "bytes=1000-1999")
		check(response.StatusCode == 206 && bytes.Equal(body, whole[1000:2000]), response.Status)
		response, body = all.ask("POST", "/echo", bytes.NewReader(upload), "")
		check(response.StatusCode == 200 && bytes.Equal(body, upload), response.Status)
		response, body = all.ask("POST", "/echo", io.MultiReader(bytes.NewReader(upload)), "") // in chunks
		check(response.StatusCode == 200 && bytes.Equal(body, upload), response.Status)
		// Connections are idle at times. And net/http closes one itself that is not done with its request 50 ms after the
		// answer, which happens where all of them compute without a pause.
		time.Sleep(20 * time.Millisecond)
	}
}

func main() {
	all := &shared{base: os.Args[1]}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			all.Lock()
			all.dials++
			all.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		MaxConnsPerHost:     workers,
		MaxIdleConnsPerHost: workers,
		// The certificates change while it is connected.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	all.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	upload := bytes.Repeat([]byte("0123456789abcdef"), 16000)
	// All at the same time, so that there is a connection for each from the beginning.
	var opened, done sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		opened.Add(1)
		go func() {
			defer opened.Done()
			all.ask("GET", "/slow?ms=1000", nil, "")
		}()
	}
	opened.Wait()
	_, whole := all.ask("GET", "/data.bin", nil, "")
	check(len(whole) == 1_000_000, len(whole))
	for worker := 0; worker < workers; worker++ {
		done.Add(1)
		go func(worker int) {
			defer done.Done()
			all.work(worker, whole, upload)
		}(worker)
	}
	done.Wait()
	check(all.dials == workers, all.dials, "connections")
	fmt.Println("done:", all.requests, "requests on", all.dials, "connections")
}
